"""Where patches come from, and which cases are held out."""
