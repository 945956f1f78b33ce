// SPDX-License-Identifier: Apache-2.0
// How a setting's value is written, the same on the command line and in the file. Parsers are
// strict: no blanks, no signs where none belong, no unit left out. An error says what was expected,
// with examples, but not where; the settings table adds that.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace palimpsest {

// An address to listen on or to connect to.
struct Endpoint {
  std::string host = "127.0.0.1";  // a name, an IPv4 or an IPv6 address (without brackets)
  uint16_t port = 0;               // 0: any free port, for listening only
  bool operator==(const Endpoint&) const = default;
};

// 1048576, 512MiB, 10GB: a whole number and B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB,
// TiB (powers of 1024); no unit means bytes.
absl::StatusOr<uint64_t> ParseBytes(absl::string_view text);

// 500ms, 2s, 1m: a whole number and ns, us, ms, s, m or h. The unit may not be left out.
absl::StatusOr<std::chrono::nanoseconds> ParseDuration(absl::string_view text);

// true, false, yes, no, on, off.
absl::StatusOr<bool> ParseBool(absl::string_view text);

// A whole decimal number: 42, -7.
absl::StatusOr<int64_t> ParseInteger(absl::string_view text);

// A finite decimal number: 0.5, -3, 1e-4.
absl::StatusOr<double> ParseReal(absl::string_view text);

// host:port, [ipv6]:port, or :port, which means loopback: nothing listens to the world by default.
absl::StatusOr<Endpoint> ParseEndpoint(absl::string_view text);

// Each writes what its parser reads, in the largest unit that divides the value.
std::string FormatBytes(uint64_t bytes);
std::string FormatDuration(std::chrono::nanoseconds duration);
std::string FormatEndpoint(const Endpoint& endpoint);

}  // namespace palimpsest
