"""Jobs become artifacts: the runner, its two doors, the worker behind them."""
