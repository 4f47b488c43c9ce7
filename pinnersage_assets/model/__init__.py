"""The method: arrays and data frames in, arrays and data frames out."""
