// SPDX-License-Identifier: Apache-2.0
#include "common/base/values.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/text.h"

namespace palimpsest {
namespace {

struct Unit {
  absl::string_view name;
  uint64_t size;
};

constexpr std::array<Unit, 9> kByteUnits = {{{"TiB", 1ull << 40},
                                             {"TB", 1000'000'000'000},
                                             {"GiB", 1ull << 30},
                                             {"GB", 1000'000'000},
                                             {"MiB", 1ull << 20},
                                             {"MB", 1000'000},
                                             {"KiB", 1ull << 10},
                                             {"KB", 1000},
                                             {"B", 1}}};
constexpr std::array<Unit, 6> kTimeUnits = {{{"h", 3600'000'000'000},
                                             {"m", 60'000'000'000},
                                             {"s", 1000'000'000},
                                             {"ms", 1000'000},
                                             {"us", 1000},
                                             {"ns", 1}}};

absl::Status Wrong(absl::string_view text, absl::string_view kind, absl::string_view written) {
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " is not ", kind, "; write ", written));
}

// The digits at the front of `text` as a number and what follows them. False when there are none
// or too many.
bool SplitNumber(absl::string_view text, uint64_t* number, absl::string_view* rest) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *number);
  if (error != std::errc()) return false;
  *rest = absl::string_view(stop, static_cast<size_t>(end - stop));
  return true;
}

// number x the unit called `name`, or false when there is no such unit or the product is too big.
template <size_t count>
bool Scale(uint64_t number, absl::string_view name, const std::array<Unit, count>& units,
           uint64_t max, uint64_t* scaled) {
  for (const Unit& unit : units) {
    if (unit.name != name) continue;
    if (number > max / unit.size) return false;
    *scaled = number * unit.size;
    return true;
  }
  return false;
}

template <size_t count>
std::string InLargestUnit(uint64_t value, const std::array<Unit, count>& units) {
  for (const Unit& unit : units) {
    if (value % unit.size == 0 && value != 0) return absl::StrCat(value / unit.size, unit.name);
  }
  return absl::StrCat(value, units.back().name);
}

bool IsHost(absl::string_view host, bool bracketed) {
  if (host.empty() || host.size() > 253) return false;
  for (const char c : host) {
    const bool name = absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_';
    const bool address = bracketed && (absl::ascii_isxdigit(c) || c == ':' || c == '.');
    if (bracketed ? !address : !name) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(absl::string_view text) {
  uint64_t number = 0;
  absl::string_view unit;
  uint64_t bytes = 0;
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  if (SplitNumber(text, &number, &unit) &&
      Scale(number, unit.empty() ? "B" : unit, kByteUnits, kMax, &bytes)) {
    return bytes;
  }
  return Wrong(text, "a number of bytes", "for example 512MiB, 10GB or 1048576");
}

absl::StatusOr<std::chrono::nanoseconds> ParseDuration(absl::string_view text) {
  uint64_t number = 0;
  absl::string_view unit;
  uint64_t nanoseconds = 0;
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  if (SplitNumber(text, &number, &unit) && Scale(number, unit, kTimeUnits, kMax, &nanoseconds)) {
    return std::chrono::nanoseconds(static_cast<int64_t>(nanoseconds));
  }
  return Wrong(text, "a length of time", "for example 500ms, 2s or 1m");
}

absl::StatusOr<bool> ParseBool(absl::string_view text) {
  if (text == "true" || text == "yes" || text == "on") return true;
  if (text == "false" || text == "no" || text == "off") return false;
  return Wrong(text, "a truth value", "true or false");
}

absl::StatusOr<int64_t> ParseInteger(absl::string_view text) {
  int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc() && stop == end) return number;
  return Wrong(text, "a whole number", "for example 8");
}

absl::StatusOr<double> ParseReal(absl::string_view text) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc() && stop == end && std::isfinite(number)) return number;
  return Wrong(text, "a number", "for example 0.5");
}

absl::StatusOr<Endpoint> ParseEndpoint(absl::string_view text) {
  const absl::Status wrong =
      Wrong(text, "an address", "host:port, for example 127.0.0.1:7400, [::1]:7400 or :7400");
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return wrong;
  absl::string_view host = text.substr(0, colon);
  const absl::string_view digits = text.substr(colon + 1);
  uint64_t port = 0;
  absl::string_view rest;
  if (!SplitNumber(digits, &port, &rest) || !rest.empty() || port > 65535) return wrong;
  Endpoint endpoint;
  endpoint.port = static_cast<uint16_t>(port);
  if (host.empty()) return endpoint;
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (!IsHost(host, bracketed)) return wrong;
  endpoint.host = std::string(host);
  return endpoint;
}

std::string FormatBytes(uint64_t bytes) { return InLargestUnit(bytes, kByteUnits); }

std::string FormatDuration(std::chrono::nanoseconds duration) {
  return InLargestUnit(static_cast<uint64_t>(duration.count()), kTimeUnits);
}

std::string FormatEndpoint(const Endpoint& endpoint) {
  const bool ipv6 = endpoint.host.find(':') != std::string::npos;
  return absl::StrCat(ipv6 ? "[" : "", endpoint.host, ipv6 ? "]" : "", ":", endpoint.port);
}

}  // namespace palimpsest
