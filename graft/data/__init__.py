"""Image folders, tables and remote addresses: listing, decoding, validation and splitting."""
