// SPDX-License-Identifier: Apache-2.0
// Stands in for palimpsest-decode and palimpsest-kvstore in tests: takes their flags, listens, and
// behaves as PALIMPSEST_SIMULATION says. Named palimpsest-kvstore it serves nothing but a port.
#include <kj/async-io.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/rpc/rpc_connection.h"
#include "tests/cli/simulated_worker.h"

int main(int argc, char** argv) {
  using namespace palimpsest;
  const char* const text = std::getenv("PALIMPSEST_SIMULATION");
  cli::SimulationOptions options = cli::ParseSimulation(text == nullptr ? "" : text);
  for (int i = 1; i < argc; ++i) options.lockstep |= std::string_view(argv[i]) == "--lockstep";
  const bool is_store = std::string_view(argv[0]).find("kvstore") != std::string_view::npos;
  if (std::getenv("PALIMPSEST_SIMULATION_FAILS") != nullptr && !is_store) {
    std::fprintf(stderr, "error: model: config.json: hidden_size 0 is out of range\n");
    return 2;
  }
  auto io = kj::setupAsyncIo();
  kj::Timer& timer = io.provider->getTimer();
  wire::Decode::Client worker = kj::heap<cli::SimulatedWorker>(timer, options);
  auto address = io.provider->getNetwork().parseAddress("127.0.0.1", 0).wait(io.waitScope);
  RpcListener listener(
      address->listen(), timer, 64,
      [&](kj::Own<kj::AsyncIoStream> socket) {
        kj::Maybe<capnp::Capability::Client> bootstrap;
        if (!is_store) bootstrap = worker;
        auto connection = kj::heap<RpcConnection>(
            kj::mv(socket), capnp::rpc::twoparty::Side::SERVER, kj::mv(bootstrap), nullptr);
        auto done = connection->OnDisconnect();
        return done.attach(kj::mv(connection));
      },
      [] {});
  std::printf("listening on 127.0.0.1:%u\n", static_cast<unsigned>(listener.port()));
  std::fflush(stdout);
  listener.Run().wait(io.waitScope);
  return 0;
}
