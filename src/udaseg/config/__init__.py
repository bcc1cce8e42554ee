"""The model of all parameters: typed and strict. Knows nothing of methods, data sets or networks."""
