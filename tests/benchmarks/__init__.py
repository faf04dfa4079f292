"""How fast it is, and what memory it takes, beside the peers that are installed: `python -m tests.benchmarks`.

The rows of one table are taken in one run, in turn (A B C A B C …), and their medians are compared. Errors are relative to
the model's own result in float64. Benchmarks are no tests: a test runs them in miniature, so that they stay alive.
"""
