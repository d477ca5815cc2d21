"""What the second derivative looks like: Hessian, spectrum, trace."""
