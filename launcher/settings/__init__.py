"""How YAML files and `key=value` arguments become a checked tree of settings. The entrance is launcher.yaml_config."""
