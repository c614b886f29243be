"""From a folder, a table or an address to a manifest of images that are fit to train on, and its splits."""
