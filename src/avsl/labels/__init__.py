"""Labeling a folder: choice of clips, exchange with annotation tools, forecast of the number of labels."""
