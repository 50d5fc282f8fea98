"""`ordergrad advise`: from a goal in plain terms to an objective, its K and its baseline."""
