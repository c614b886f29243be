"""Graft and its peers: ``with_*`` measure throughput, ``accuracy_with_*`` train a classifier and predict a holdout."""
