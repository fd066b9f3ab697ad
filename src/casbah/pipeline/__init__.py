"""What lies between the Kubeflow components and the stages.

`steps` holds the one call of each component's body, `inputs` turns the text of a pipeline parameter into a file that a
stage reads, `compiled` makes the YAML, and `local` runs it on this machine. KFP is imported by the last two alone.
"""
