"""One module per operation, each with `run(context) -> result`; they import the engine."""
