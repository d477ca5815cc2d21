"""Callbacks that look at the landscape while a model trains."""
