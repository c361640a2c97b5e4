"""The fault rows of the tests, played against processes: Cistern beside docker-registry in proxy mode."""
