"""A name -> model, tokenizer and calibration."""
