"""What libraries compute slowly, computed faster: the same results, but for int8 if asked for."""
