"""What several tests share: real servers, load, small models."""
