"""Integrations with other products. Each needs an extra of the same name, and is imported by the project itself."""
