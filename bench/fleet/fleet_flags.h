// SPDX-License-Identifier: Apache-2.0
// The flags of every benchmark that times a fleet on the GPU.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>

#include "bench/flags.h"
#include "bench/fleet/gpu_fleet.h"

namespace palimpsest::bench {

// `options` and `steps` outlive the parsing.
inline void AddFleetFlags(CLI::App& app, GpuFleetOptions& options, uint32_t& steps) {
  app.add_option("--shape", options.shape, "the model")->capture_default_str();
  app.add_option("--tokens", options.tokens, "a chain's")
      ->check(flags::ChainTokens())
      ->capture_default_str();
  app.add_option("--rotate-keys", options.rotate_keys, "as workers do")
      ->type_name("on|off")
      ->default_str("on");
  app.add_option("--steps", steps, "timed steps a case")
      ->check(flags::Steps())
      ->capture_default_str();
}

}  // namespace palimpsest::bench
