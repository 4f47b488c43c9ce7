"""Where a kernel runs over many files: in this process, in processes beside it, on Ray."""
