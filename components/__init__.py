"""The pipeline's components: one folder per stage, each a typed contract whose body is one call into Casbah."""
