"""Parts of the soak test of the server: requests that are right, requests that are hostile, and the server process."""
