"""Published results of benchmarks, for `runner compare --published NAME`: one YAML file for each benchmark."""
