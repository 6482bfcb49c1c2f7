"""What every room may import: values, checks, contracts. Numpy only."""
