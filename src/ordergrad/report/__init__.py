"""Tables, drawings and figures of objectives and runs."""
