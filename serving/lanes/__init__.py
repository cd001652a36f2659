"""The ways by which a request comes in: as an ASGI application, and straight from the connection."""
