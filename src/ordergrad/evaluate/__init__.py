"""Evaluation of language models: sampling as in training, rewards, pass@k and its relatives with intervals."""
