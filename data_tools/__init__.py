"""What a person runs by hand on data sets: ``python -m data_tools convert|split|inspect|download``."""
