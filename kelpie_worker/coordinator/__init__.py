"""The calls to the coordinator's API: takes claims, reports and heartbeats to send, returns the answers. The only
package that imports requests.
"""
