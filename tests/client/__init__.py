"""The client `kelpie`, on the application in this process and on doubles."""
