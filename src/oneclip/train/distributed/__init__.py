"""Training on several processes: rendezvous, parallel towers, heartbeats and the watchdog."""
