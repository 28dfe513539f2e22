"""Our engine beside the other ways to serve a GPT-2 on a CPU; `python -m loadtest.peers --help`."""
