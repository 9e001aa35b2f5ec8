-- rfc3339(ms): a time as `2026-11-20T16:20:00.123Z`. Redis gives scripts no os.date, so the calendar is
-- Howard Hinnant's civil_from_days ("chrono-Compatible Low-Level Date Algorithms"). A task's times mostly fall on
-- one day or two, so each day is worked out once a run.
local date_of = {}

local function date(days)
  local floor = math.floor
  local shifted = days + 719468
  local era = floor(shifted / 146097)
  local day_of_era = shifted - era * 146097
  local year_of_era =
    floor((day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524) - floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
  local shifted_month = floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - floor((153 * shifted_month + 2) / 5) + 1
  local month = shifted_month < 10 and shifted_month + 3 or shifted_month - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02d', year, month, day)
end

local text_of = {}

local function rfc3339(ms)
  local text = text_of[ms]
  if text then
    return text
  end
  local of_day = ms % 86400000
  local days = (ms - of_day) / 86400000
  local day = date_of[days]
  if not day then
    day = date(days)
    date_of[days] = day
  end
  text = string.format('%sT%02d:%02d:%02d.%03dZ', day,
    of_day / 3600000, of_day % 3600000 / 60000, of_day % 60000 / 1000, of_day % 1000)
  text_of[ms] = text
  return text
end
