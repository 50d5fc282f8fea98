"""`ordergrad train rl` and `ordergrad train llm`: settings, checks, training, evaluation and results of runs."""
