"""What `loop promote` decides and says: which round to ship, and the card of the model. `policies/exporting.py` writes the model itself."""
