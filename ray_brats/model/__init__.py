"""The network and what is made of it: losses, windows, the Predictor, bundles, their cards.

Doors: predict, bundle, card, predictions.
Never here: Ray, or anything that a training alone needs.
"""
