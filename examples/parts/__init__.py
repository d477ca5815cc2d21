"""What several examples train, and train on."""
