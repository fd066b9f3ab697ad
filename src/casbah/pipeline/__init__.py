"""What lies between the Kubeflow components and the stages.

`steps` holds the one call of each component's body, `inputs` turns the text of a pipeline parameter into a file that a
stage reads, `compiled` makes the YAML, `local` runs it on this machine in the process of `kfp_process`, `session` finds
or starts the services for that, `display` shows it, and `demo` brings the simulated town. KFP is imported by `compiled`
and `kfp_process` alone.
"""
