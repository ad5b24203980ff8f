-- One row per transcription and speaker. chr(10) is char(10) in MySQL, SQLite and ClickHouse, which have a
-- view of this name already.
with said as (
    select
        transcription_id,
        speaker,
        case when end_seconds > start_seconds then end_seconds - start_seconds else 0.0 end as length_seconds,
        -- Five times two spaces to one: of a run of up to 32 one is left.
        trim(
            replace(replace(replace(replace(replace(
                replace(replace(replace(text, chr(9), ' '), chr(10), ' '), chr(13), ' '),
            '  ', ' '), '  ', ' '), '  ', ' '), '  ', ' '), '  ', ' ')
        ) as said
    from {{ source('plaud', 'plaud_segments') }}
),

spoken as (
    select
        transcription_id,
        speaker,
        sum(length_seconds) as seconds,
        count(*) as segments,
        sum(case when said = '' then 0 else length(said) - length(replace(said, ' ', '')) + 1 end) as words
    from said
    group by transcription_id, speaker
)

select
    transcription_id,
    speaker,
    seconds,
    segments,
    words,
    seconds / nullif(sum(seconds) over (partition by transcription_id), 0.0) as share
from spoken
