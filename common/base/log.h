// SPDX-License-Identifier: Apache-2.0
// One line a record, to stderr, for people (key=value) or machines (JSON). A Log is made by main()
// and handed down; there is no global one. Any thread may write. Nothing here throws or blocks on
// more than the write itself, and no text from outside can forge a line or drive a terminal.
//
//   log->Info("worker registered", {{"worker", name}, {"pages", 4096}});
//   text: 2026-11-22T08:35:00.123Z info palimpsest-kvstore "worker registered" worker=w0 pages=4096
//   json: {"ts":"2026-11-22T08:35:00.123Z","level":"info","program":"palimpsest-kvstore",
//          "msg":"worker registered","worker":"w0","pages":4096}                    (on one line)
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <string>
#include <type_traits>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace palimpsest {

class SettingsTable;

enum class LogLevel : uint8_t { kDebug = 0, kInfo, kWarning, kError, kOff };
enum class LogFormat : uint8_t { kText = 0, kJson };

struct LogOptions {
  std::string program;
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kText;
  std::ostream* stream = nullptr;  // for tests; null: stderr. Must outlive the log.
};

// A fact of a record. The key is a literal of ours, snake_case with its unit; the value is
// anyone's. Views: alive only during the call.
struct LogField {
  template <typename T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0>
  LogField(absl::string_view name, T number) : key(name) {
    if constexpr (std::is_same_v<T, bool>) {
      value = number;
    } else if constexpr (std::is_floating_point_v<T>) {
      value = static_cast<double>(number);
    } else if constexpr (std::is_signed_v<T>) {
      value = static_cast<int64_t>(number);
    } else {
      value = static_cast<uint64_t>(number);
    }
  }
  LogField(absl::string_view name, absl::string_view text) : key(name), value(text) {}
  LogField(absl::string_view name, const char* text) : key(name), value(absl::string_view(text)) {}
  LogField(absl::string_view name, const std::string& text)
      : key(name), value(absl::string_view(text)) {}

  absl::string_view key;
  std::variant<absl::string_view, int64_t, uint64_t, double, bool> value;
};

using LogFields = std::initializer_list<LogField>;

class Log {
 public:
  virtual ~Log() = default;

  virtual void Write(LogLevel level, absl::string_view message, LogFields fields) = 0;
  // Whether a record of this level would be written; for fields that cost something to make.
  virtual bool Enabled(LogLevel level) const = 0;

  void Debug(absl::string_view message, LogFields fields = {}) {
    Write(LogLevel::kDebug, message, fields);
  }
  void Info(absl::string_view message, LogFields fields = {}) {
    Write(LogLevel::kInfo, message, fields);
  }
  void Warning(absl::string_view message, LogFields fields = {}) {
    Write(LogLevel::kWarning, message, fields);
  }
  void Error(absl::string_view message, LogFields fields = {}) {
    Write(LogLevel::kError, message, fields);
  }
};

std::unique_ptr<Log> NewLog(LogOptions options);

// Adds --log-level and --log-format to a program's table.
void AddLogSettings(SettingsTable* table, LogOptions* options);

}  // namespace palimpsest
