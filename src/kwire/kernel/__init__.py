"""The only room that calls Linux: bpf(2), perf_event_open(2), maps, rings, attach points, symbols,
features.
"""
