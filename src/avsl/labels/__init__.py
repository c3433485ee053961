"""From a folder without boxes to a labeled one: which clips to label, exchange with annotation tools, how many."""
