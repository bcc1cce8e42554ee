"""How golden files reach the product, one module for each family of methods."""
