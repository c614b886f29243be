"""What a network is fed with: pixels, or what its frozen layers gave of them."""
