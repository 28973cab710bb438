"""Programs that come with shmsync's source but are not part of the package."""
