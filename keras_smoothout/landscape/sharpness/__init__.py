"""How much the loss rises around the weights: by noise, in the worst case, and what follows."""
