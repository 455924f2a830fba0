"""A gRPC server with nothing but the health service (grpc.health.v1).

It prints its port, and then takes lines such as `my.Service NOT_SERVING` on standard input and
answers each with `ok`. The server as a whole is the service `-`. It ends with its input.
"""

import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    for line in sys.stdin:
        service, status = line.split()
        status = health_pb2.HealthCheckResponse.ServingStatus.Value(status)
        servicer.set("" if service == "-" else service, status)
        print("ok", flush=True)
    server.stop(grace=None)


main()
