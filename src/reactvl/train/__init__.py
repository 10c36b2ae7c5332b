"""The training engine: what is tuned, from which pairs, with which views, by which steps. It knows arrays and models, no folders."""
