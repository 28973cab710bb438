"""The process that hands out the descriptors of engines whose objects are descriptors."""
