// SPDX-License-Identifier: Apache-2.0
// The YAML file: one mapping of keys to scalars or lists of scalars, or, where a setting is a map,
// to a mapping of names to mappings of fields. yaml-cpp throws; nothing
// leaves this file. What it would let pass (repeated keys, second documents) is refused here.
#include <sys/stat.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/settings.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"

namespace palimpsest {
namespace {

constexpr size_t kFileBytesMax = 256 << 10;

absl::Status At(const std::string& path, int line, int column, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat(path, ":", line, ":", column, ": ", message));
}

std::string Where(const std::string& path, const YAML::Mark& mark) {
  return absl::StrCat(path, ":", mark.line + 1, ":", mark.column + 1);
}

absl::Status At(const std::string& path, const YAML::Mark& mark, absl::string_view message) {
  return At(path, mark.line + 1, mark.column + 1, message);
}

// What YAML forbids or what never belongs in a configuration, each with its own message, because
// the parser's words for them help nobody.
absl::Status CheckCharacters(absl::string_view text, const std::string& path) {
  int line = 1;
  int column = 1;
  bool indentation = true;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\t' && indentation) {
      return At(path, line, column, "a tab in the indentation; YAML is indented with spaces only");
    }
    if (c == '\0') {
      return At(path, line, column, "a zero byte; save the file as UTF-8 text");
    }
    if (absl::ascii_iscntrl(byte) && c != '\n' && c != '\r' && c != '\t') {
      return At(path, line, column, absl::StrCat("a control character ", Quoted({&c, 1})));
    }
    if (c == '\n') {
      ++line;
      column = 1;
      indentation = true;
      continue;
    }
    if (c != ' ') indentation = false;
    ++column;
  }
  return absl::OkStatus();
}

std::string KindOf(const YAML::Node& node) {
  if (node.IsMap()) return "a mapping";
  if (node.IsSequence()) return "a list";
  return node.IsNull() ? "nothing" : "a single value";
}

// The text of a key; what yaml-cpp would let pass, the same key twice, is refused.
absl::StatusOr<std::string> ReadKey(const YAML::Node& key, std::map<std::string, int>* seen,
                                    const std::string& path) {
  if (!key.IsScalar()) {
    return At(path, key.Mark(), absl::StrCat("found ", KindOf(key), " where a key belongs"));
  }
  const auto [first, is_new] = seen->emplace(key.Scalar(), key.Mark().line + 1);
  if (is_new) return key.Scalar();
  return At(path, key.Mark(),
            absl::StrCat("key ", Quoted(key.Scalar()),
                         " is set a second time; the first is in line ", first->second));
}

// `{name: {field: value}}` as the items of a map.
absl::StatusOr<Setting::Values> ReadMapValues(const YAML::Node& node, const Setting& setting,
                                              const std::string& path) {
  const auto wrong = [&](const YAML::Node& found, absl::string_view expected) {
    return At(path, found.Mark(),
              absl::StrCat(setting.key, ": found ", KindOf(found), " but expected ", expected,
                           "; for example ", setting.doc.example));
  };
  if (!node.IsMap()) return wrong(node, "a mapping of names");
  Setting::Values items;
  std::map<std::string, int> names;
  for (const auto& entry : node) {
    KV_ASSIGN_OR_RETURN(const std::string name, ReadKey(entry.first, &names, path));
    if (!entry.second.IsMap() || entry.second.size() == 0) {
      return wrong(entry.second, absl::StrCat("a mapping with ", setting.allowed));
    }
    std::map<std::string, int> fields;
    for (const auto& value : entry.second) {
      KV_ASSIGN_OR_RETURN(const std::string field, ReadKey(value.first, &fields, path));
      if (!value.second.IsScalar()) return wrong(value.second, "a single value");
      // A dot would make it part of the name.
      if (field.find_first_of(".=") != std::string::npos) {
        return At(path, value.first.Mark(), absl::StrCat(Quoted(field), " is no field"));
      }
      items.push_back(absl::StrCat(name, ".", field, "=", value.second.Scalar()));
    }
  }
  return items;
}

// The texts below `node`, when they are what the setting takes.
absl::StatusOr<Setting::Values> ReadValues(const YAML::Node& node, const Setting& setting,
                                           const std::string& path) {
  const std::string expected = absl::StrCat(
      setting.is_list ? "a list" : "a single value",
      setting.allowed.empty() ? "" : absl::StrCat("; allowed: ", setting.allowed),
      setting.doc.example.empty() ? "" : absl::StrCat("; for example ", setting.doc.example));
  const auto wrong = [&](const YAML::Node& found) {
    return At(path, found.Mark(),
              absl::StrCat(setting.key, ": found ", KindOf(found), " but expected ", expected));
  };
  if (!setting.fields.empty()) return ReadMapValues(node, setting, path);
  if (node.IsScalar() && !setting.is_list) return Setting::Values{node.Scalar()};
  if (!node.IsSequence() || !setting.is_list) return wrong(node);
  Setting::Values values;
  for (const YAML::Node& item : node) {
    if (!item.IsScalar()) return wrong(item);
    values.push_back(item.Scalar());
  }
  return values;
}

absl::Status ReadEntry(const YAML::Node& key, const YAML::Node& value, const std::string& path,
                       std::map<std::string, int>* seen, SettingsTable* table) {
  KV_ASSIGN_OR_RETURN(const std::string name, ReadKey(key, seen, path));
  Setting* const setting = table->Find(name);
  if (setting == nullptr) {
    const std::string nearest = Nearest(name, table->Keys());
    return At(path, key.Mark(),
              absl::StrCat("unknown key ", Quoted(name), "; ",
                           nearest.empty() ? absl::StrCat("see ", table->program(), " --help")
                                           : absl::StrCat("did you mean '", nearest, "'?")));
  }
  KV_ASSIGN_OR_RETURN(const Setting::Values values, ReadValues(value, *setting, path));
  return table->Assign(setting, values, Where(path, value.Mark()));
}

// Where the documents of a stream begin; their content is YAML::Load's business.
class DocumentStarts final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override { marks.push_back(mark); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}

  std::vector<YAML::Mark> marks;
};

absl::Status ReadDocument(const std::string& text, const std::string& path, SettingsTable* table) {
  // Not LoadAll: on a lone ',' the parser makes no progress and LoadAll never ends (yaml-cpp
  // #1040).
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  DocumentStarts starts;
  while (starts.marks.size() < 2 && parser.HandleNextDocument(starts)) {
  }
  if (starts.marks.empty()) return absl::OkStatus();  // only comments
  if (starts.marks.size() > 1) {
    const bool stuck = starts.marks[0].pos == starts.marks[1].pos;
    return At(path, starts.marks[1],
              stuck ? "not YAML" : "a second YAML document; a file holds one");
  }
  const YAML::Node root = YAML::Load(text);
  if (!root.IsMap()) {
    return At(path, root.Mark(),
              absl::StrCat("found ", KindOf(root), " but expected lines of the form 'key: value'"));
  }
  std::map<std::string, int> seen;
  for (const auto& entry : root) {
    KV_RETURN_IF_ERROR(ReadEntry(entry.first, entry.second, path, &seen, table));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadSettingsText(absl::string_view text, const std::string& path,
                              SettingsTable* table) {
  if (text.size() > kFileBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": more than ", kFileBytesMax, " bytes is no configuration file"));
  }
  if (text.substr(0, 2) == "\xFF\xFE" || text.substr(0, 2) == "\xFE\xFF") {
    return absl::InvalidArgumentError(absl::StrCat(path, ":1:1: UTF-16; save the file as UTF-8"));
  }
  if (text.substr(0, 3) == "\xEF\xBB\xBF") text.remove_prefix(3);  // an editor's mark; harmless
  if (absl::StripAsciiWhitespace(text).empty()) {
    // More often a template that failed than a wish for all defaults.
    return absl::InvalidArgumentError(absl::StrCat(
        path, ":1:1: the file is empty; write 'key: value' lines or a comment, or drop --config"));
  }
  KV_RETURN_IF_ERROR(CheckCharacters(text, path));
  try {
    return ReadDocument(std::string(text), path, table);
  } catch (const YAML::Exception& e) {
    return At(path, e.mark.is_null() ? YAML::Mark() : e.mark,
              absl::StrCat("not YAML: ", Escaped(e.msg)));
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not readable: ", Escaped(e.what())));
  }
}

absl::Status ReadSettingsFile(const std::string& path, SettingsTable* table) {
  const std::string shown = Escaped(path, 256);
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--config: ", shown, ": ", strerror(errno)));
  }
  if (S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--config: ", shown, ": a directory; name the YAML file in it"));
  }
  if (!S_ISREG(info.st_mode) && !S_ISFIFO(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("--config: ", shown, ": not a regular file"));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(kFileBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.eof() && file.gcount() == 0) {
    return absl::InvalidArgumentError(absl::StrCat("--config: ", shown, ": cannot be read"));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  return ReadSettingsText(text, shown, table);
}

}  // namespace palimpsest
