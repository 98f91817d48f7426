"""The OpenVINO engine: networks as OpenVINO graphs, compiled once for a CPU."""
